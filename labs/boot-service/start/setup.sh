#!/bin/sh
# Runs once, as root. What shall happen at every boot must be written down by it.
