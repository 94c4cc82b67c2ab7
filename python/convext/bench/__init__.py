"""The paired benchmark of convext and torch: ``convext bench`` and its commands.

The package is split by what each part owns:

==================  ===========================================================================
``shapes``          one convolution layer, shape tables in CSV, the layers of a given model
``operands``        the tensors of a cell and the calls that are timed
``verify``          results against float64, before anything is timed
``timing``          interleaved pairs, medians and spread
``environment``     what a figure depends on besides the code: machine, versions, malloc, load
``peaks``           the machine's measured roofs: FMAs and copies
``runner``          the grid of cells and the loop over it
``models``          whole models before and after ``convext.convert``
``report``          tables, geometric means, JSON
``pages``           a report as files: Markdown, HTML, figures
``compare``         two JSON files side by side
``fit``             the cost model's predictions against a run's times
``accuracy``        errors against float64, and the rule they obey
``arguments``       the options that several commands share
``parser``          the command line
``cli``             commands
==================  ===========================================================================
"""
