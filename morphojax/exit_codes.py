"""How every command ends.

0   complete.
1   failed: something outside the command line (a full disk, a process that is gone), an
    unexpected error with a traceback, or parts of the work that failed, which are named.
2   refused: an error that the same command would meet again, in one line.
75  a training or a study stopped by a signal after a checkpoint, EX_TEMPFAIL of sysexits.h; the
    same command goes on.
130 interrupted from the keyboard, as shells count it; files are complete or absent.
134 JAX aborted this process (SIGABRT), because another process of the run is gone.
"""

import os

COMPLETE, FAILED, REFUSED, STOPPED, INTERRUPTED = 0, 1, 2, os.EX_TEMPFAIL, 130
