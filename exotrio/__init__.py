"""exotrio: a worker runtime for Exosphere workflow nodes on Trio."""
