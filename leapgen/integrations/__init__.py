"""leapgen inside the programs it plugs into: each module needs its own, and the rest of the package imports none of them."""
