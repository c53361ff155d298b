import sys

if sys.platform == "win32":  # Locks of directories, signals and processes are those of POSIX.
    sys.stderr.write(
        "error: layerscope's commands need Linux or macOS: use them in WSL; "
        "`import layerscope` works here\n"
    )
    sys.exit(2)
