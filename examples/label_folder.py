"""Label a folder of images, then query the label table in SQL.

    python examples/label_folder.py photos/ run/

Run it again: only new and changed images are labelled.
"""

import sys

import duckdb
from deltalake import DeltaTable

from pipelines.labelling.label import LabelRequest, label


def main(images: str, out: str) -> None:
    result = label(LabelRequest(images=images, classes="voc", checkpoint="zs3-mini", out=out))
    print(f"{result.images} images labelled, {result.skipped} were done before, {result.failed} failed")

    database = duckdb.connect()
    database.register("labels", DeltaTable(f"{out}/labels").to_pyarrow_dataset())
    query = """
        select class_name, seen, count(*) as images, sum(area)::bigint as pixels, round(avg(score), 2) as score
        from labels
        where class_name <> ''
        group by all
        order by pixels desc
    """
    for class_name, seen, count, pixels, score in database.sql(query).fetchall():
        kind = "seen" if seen else "unseen"
        print(f"{class_name:16} {kind:6} {count:5} images {pixels:10} pixels, mean score {score:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
