#!/bin/sh
# Runs once, as root, in a fresh machine.
