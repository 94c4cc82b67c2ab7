"""The report of a run as files: ``convext bench --report`` and ``convext bench report``.

============  =================================================================================
``roofline``  work and roof of each cell: operations, bytes, peaks
``listings``  the report's tables, whatever they will be written in
``plots``     figures, by matplotlib
``contents``  the report's sections: text, tables and figures in their order
``markdown``  ``report.md``
``html``      ``report.html``, with ``page.css`` and ``page.js`` in it
``files``     the directory: what is checked before a run, and written after it
============  =================================================================================
"""
