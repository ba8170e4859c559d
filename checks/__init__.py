"""Checks of the compiled core with the tools of the C world.

    python -m checks.leaks          what is never freed (LeakSanitizer)
    python -m checks.memcheck       reads of what was never written, or is freed (valgrind)
    python -m checks.races          threads that disturb each other (ThreadSanitizer)
    python -m checks.coverage       which lines of src/ the tests have not run (gcov)
    python -m checks.long           the long form of every check that has one

Each of the first three builds the core for itself, in a directory that is removed again, with the
interpreter that runs it; gcc is taken unless CC names another compiler. The exit status is 0 when
nothing was found, 1 when something was, and 77 when the check cannot run on this machine.
"""
