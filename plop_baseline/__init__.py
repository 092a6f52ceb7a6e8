"""The methods to build on and to beat: PLOP and its peers, one file each."""
