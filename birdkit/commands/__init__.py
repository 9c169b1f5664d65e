"""The commands of `birdkit`, a module for each part of the way; each adds its own to the parser."""
