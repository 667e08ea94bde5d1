"""`zs3 label` with a fake model that takes its time for a picture: `python chaos_driver.py DELAY_S ARGUMENTS…`."""

import sys

from jobs.label import main
from tests.support.colour_labeller import colours

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], model=colours(delay_s=float(sys.argv[1]))))
