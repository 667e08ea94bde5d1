"""The graphs: the only room that imports Ray."""
