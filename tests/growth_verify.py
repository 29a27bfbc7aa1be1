"""`make verify-growth`: how long it takes to seal and to verify a large ledger."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from bench.cluster import durable_cluster
from bench.data import FILLING, Contents, fill
from tests.support import Database

import psycopg

_CHARGES = 9  # of each account, beside one credit
