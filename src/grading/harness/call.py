# Calls one function of a submission and writes what it returned, as one line of JSON, to descriptor 3.
#
# Runs inside the sandbox, beside the student's code, and is trusted by nobody: what it writes is an observation,
# and the expected value never comes here. The request is read and closed before the student's code is loaded.
import importlib.machinery
import importlib.util
import json
import os
import sys

RESULT = 3


def describe(error):
    """`NameError: name 'x' is not defined`, whatever the exception's own __str__ does."""
    try:
        text = str(error)
    except BaseException:
        text = ""
    name = type(error).__name__
    return {"type": name, "bases": [base.__name__ for base in type(error).__mro__][:16], "message": text[:500]}


def where(error, file):
    """The last line of the student's file that the exception went through."""
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    if line is None and isinstance(error, SyntaxError):
        line = error.lineno
    return line


def call(request):
    path = os.path.abspath(request["file"])
    sys.path.insert(0, os.path.dirname(path))
    try:
        loader = importlib.machinery.SourceFileLoader("submission", path)
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader("submission", loader))
        sys.modules["submission"] = module
        loader.exec_module(module)
        function = getattr(module, request["function"], None)
        if not callable(function):
            return {"missing": request["function"]}
        value = function(*request["args"])
    except BaseException as error:
        return {"raised": {**describe(error), "line": where(error, path)}}
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        if isinstance(value, float):
            return {"returned": {"float": repr(value)}}
        return {"unreadable": type(value).__name__}
    return {"returned": {"json": value}}


def main():
    with os.fdopen(0, "rb", closefd=True) as stdin:
        request = json.loads(stdin.read())
    os.open("/dev/null", os.O_RDONLY)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    os.set_inheritable(RESULT, False)
    line = (json.dumps(call(request)) + "\n").encode()
    while line:
        line = line[os.write(RESULT, line):]
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass
    # threads and exit handlers of the submission have had their time
    os._exit(0)


main()
