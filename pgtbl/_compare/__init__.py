"""The laboratory held against Linux: a language of mm operations, and what is observed after them.

A *scenario* is a list of steps in that language; an *outcome* is what somebody who played it observed. Players are the
laboratory (`laboratory`), and the running kernel (`pgtbl.host`); an outcome can also have been recorded in a file
(`scenario`). `verdict` compares two outcomes.
"""

from __future__ import annotations
