"""Simulated farms: our scheduler, the peers' policies and a lower bound on the same work.

`farm` is what is true, `policy` what a policy may know and order, `engine` lets time pass,
`measures` reads the log, `workloads` makes the work, `bounds` says what nobody can beat, the
`peer_*` modules do as other programs do, and `report` compares.
"""
