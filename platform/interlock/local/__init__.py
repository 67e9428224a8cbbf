"""Private servers, the process supervisor and the commands behind `./dev`.

Nothing here is needed, or imported, by a deployed Interlock: it exists so that a checkout can be
tried, tested and measured on a machine where nothing has been set up.
"""
