"""What the cells of a job share."""


def batches(cells, size):
    """Rows of one target prompt, so that none is padded."""
    by_target = {}
    for index, cell in enumerate(cells):
        by_target.setdefault(tuple(cell["target"]), []).append(index)
    for indexes in by_target.values():
        for begin in range(0, len(indexes), size):
            yield indexes[begin : begin + size]


def by_layer(rows):
    """Places in a batch by target layer."""
    layers = {}
    for place, row in enumerate(rows):
        layers.setdefault(row["targetLayer"], []).append(place)
    return sorted(layers.items())


def by_source(cells):
    """Cells by the prompt that their states come from."""
    sources = {}
    for cell in cells:
        sources.setdefault(tuple(cell["source"]), []).append(cell)
    return sources.items()


def key(cell):
    return tuple(cell["source"]), cell["sourcePosition"], cell["sourceLayer"]
