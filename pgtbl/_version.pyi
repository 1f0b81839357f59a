# _version.py is written by the build.
__version__: str
