"""Carrying finished and half-finished stages from one machine to another, in files of bounded size.

`lotperm.carry.needed` chooses what a campaign still needs, `lotperm.carry.packing` writes the
files, whose format is in `lotperm.carry.packs`, `lotperm.carry.unpacking` reads them, and
`lotperm.carry.adopt` moves their contents into a store. No package below the command line imports
this one; all that a store knows of it is that a stage may lack files that are listed in its folder
(`lotperm.store.folders.LEFT_OUT`).
"""
