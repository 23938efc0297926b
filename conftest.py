"""One thread for every test and every kernel, whatever the caller's environment says.

Two threads on two cores are ten times slower than one, and change the last digits of sums.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
