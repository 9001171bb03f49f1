"""What `make bench` runs: each file is one benchmark, prints what it finds and ends with one JSON line."""
