"""What a convolution does, step by step: from padded input to windows, sums, tiles and registers.

:func:`trace` follows one convolution or a whole model and returns a :class:`Trace`, which prints
as text, shows itself in a notebook and saves a page of its own (:meth:`Trace.save_html`). The
command ``convext trace`` shows the same in a terminal.

- ``setting``: the geometry of one convolution, and in whose words it is refused.
- ``convolution``, ``model``: the two kinds of trace.
- ``quiz``: questions about the geometry, with answers and formulas.
- ``text``, ``html``: traces as lines of text and as one HTML page.
"""

from ._trace import Trace, trace
from .convolution import ConvTrace
from .model import LayerTrace, ModelTrace
from .setting import LESSON, Setting

__all__ = [
    "LESSON",
    "ConvTrace",
    "LayerTrace",
    "ModelTrace",
    "Setting",
    "Trace",
    "trace",
]
