"""The library under the jobs. It imports no engine.

Rooms, each of which imports only from rooms before it: data, features, evaluate, ridge, nets, predict, report,
run, tools. The modules at the top belong to no room and are used by all.
"""
