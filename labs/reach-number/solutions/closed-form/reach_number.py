"""Solves n (n + 1) / 2 >= |target| for n, then corrects the parity."""
from math import isqrt


def reach_number(target):
    target = abs(target)
    # the smallest n whose sum 1 + 2 + ... + n is not short of the target
    n = (isqrt(8 * target + 1) - 1) // 2
    if n * (n + 1) // 2 < target:
        n += 1
    # turning one move k around takes 2k away, so what is too much must be even
    while (n * (n + 1) // 2 - target) % 2:
        n += 1
    return n
