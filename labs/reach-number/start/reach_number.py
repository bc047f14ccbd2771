def reach_number(target):
    """How few moves lead from 0 to target?"""
    return 0
