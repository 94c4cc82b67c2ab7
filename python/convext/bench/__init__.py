"""The paired benchmark of convext and torch: ``convext bench`` and ``convext bench compare``.

The package is split by what each part owns:

==================  ===========================================================================
``shapes``          one convolution layer, shape tables in CSV, the layers of a given model
``operands``        the tensors of a cell and the calls that are timed
``verify``          results against float64, before anything is timed
``timing``          interleaved pairs, medians and spread
``environment``     what a figure depends on besides the code: machine, versions, malloc, load
``runner``          the grid of cells and the loop over it
``report``          tables, geometric means, JSON
``compare``         two JSON files side by side
``cli``             arguments
==================  ===========================================================================
"""

from convext.bench.cli import add_parser, run

__all__ = ["add_parser", "run"]
