"""keelway: one package that takes a trained model from a file to production.

Importing this package pulls in no heavy library; a test says so. Users import what they need from its modules, or
from the command line: ``keelway --help``.
"""

__version__ = "0.1.0.dev0"
