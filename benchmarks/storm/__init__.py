"""A storm over run folders: kills, signals, full disks, damage; bytes must end up the same.

Run: ``python -m benchmarks.storm`` from the repository's root, on Linux. Each episode gives a
small job a folder, disturbs it, starts it again until it finishes, and compares the folder with
that of an undisturbed run. What is compared, and what is left out, stands in ``compare``.
"""
