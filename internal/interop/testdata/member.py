"""A member of a cluster that is made of Patroni's own classes, without PostgreSQL.

Each line of the input is a JSON list: the name of a method of Patroni's class for the
store, and its arguments. The answer is one line of JSON.
"""
import json
import sys

import dateutil.parser

from patroni.config import Config
from patroni.dcs import get_dcs
from patroni.utils import cluster_as_json

config = Config(sys.argv[1], validator=None).copy()
dcs = get_dcs(config)


def cluster():
    c = dcs.get_cluster(force=True)
    return {
        'initialize': c.initialize,
        'config': c.config and c.config.data,
        'config_index': c.config and c.config.index,
        'leader': c.leader_name,
        'last_lsn': c.last_lsn,
        'slots': c.slots,
        'members': {m.name: dict(m.data) for m in c.members},
        'failover': [c.failover.leader, c.failover.candidate] if c.failover else None,
        'sync': [c.sync.leader, c.sync.members],
        'history': c.history and c.history.lines,
        'failsafe': c.failsafe,
        'list': cluster_as_json(c),
    }


def manual_failover(leader, candidate, scheduled_at):
    return dcs.manual_failover(leader, candidate, scheduled_at and dateutil.parser.parse(scheduled_at))


for line in sys.stdin:
    name, *args = json.loads(line)
    if name == 'cluster':
        result = cluster()
    elif name == 'manual_failover':
        result = manual_failover(*args)
    else:
        result = getattr(dcs, name)(*args)
    print(json.dumps(result), flush=True)
