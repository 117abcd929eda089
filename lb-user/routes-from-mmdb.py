#!/usr/bin/python3
"""Prints `[[service.route]]` tables made from a database in MaxMind's format.

Needs the Debian package python3-maxminddb, or `pip install maxminddb`.

  routes-from-mmdb.py GeoLite2-Country.mmdb continent.code eu=EU,AF us=NA,SA
  routes-from-mmdb.py --ipv6 GeoLite2-ASN.mmdb autonomous_system_number isp=64500
"""

import argparse
import ipaddress

import maxminddb

# All addresses; of IPv6 those that are assigned to networks (2000::/3), without
# the ways that wrap IPv4 addresses, which databases repeat there.
SPACE = {4: ["0.0.0.0/0"], 6: ["2000::/3"]}
WRAPPED = [ipaddress.ip_network(net) for net in ("2001::/32", "2002::/16")]


def networks(reader, version):
    """Every network of the database, and what it says of it."""
    for space in map(ipaddress.ip_network, SPACE[version]):
        address, last = int(space[0]), int(space[-1])
        kind = type(space[0])
        while address <= last:
            wrapped = next((net for net in WRAPPED if kind(address) in net), None)
            if wrapped:
                address = int(wrapped[-1]) + 1
                continue
            record, length = reader.get_with_prefix_len(kind(address))
            net = ipaddress.ip_network((address, max(length, space.prefixlen)), strict=False)
            yield net, record
            address = int(net[-1]) + 1


def value(record, path):
    """The text at a path such as `country.iso_code`; None where there is none."""
    for key in path.split("."):
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return None if record is None else str(record)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ipv6", action="store_true", help="for a service with an IPv6 VIP")
    parser.add_argument("database")
    parser.add_argument("path", help="what to go by, such as country.iso_code")
    parser.add_argument("groups", nargs="+", metavar="GROUP=VALUE[,VALUE...]")
    args = parser.parse_args()
    group_of, prefixes = {}, {}
    for words in args.groups:
        group, _, values = words.partition("=")
        if not group or not values:
            parser.error(f"`{words}`: expected GROUP=VALUE[,VALUE...]")
        prefixes[group] = []
        group_of.update((word, group) for word in values.split(","))
    with maxminddb.open_database(args.database) as reader:
        if args.ipv6 and reader.metadata().ip_version == 4:
            parser.error(f"`{args.database}` has no IPv6 networks")
        for net, record in networks(reader, 6 if args.ipv6 else 4):
            group = group_of.get(value(record, args.path))
            if group:
                prefixes[group].append(net)
    for group, nets in prefixes.items():
        if not nets:
            parser.error(f"`{args.database}` has no network for group `{group}`")
    for group, nets in prefixes.items():
        print(f'[[service.route]]\ngroup = "{group}"\nfrom = [')
        for net in ipaddress.collapse_addresses(nets):
            print(f'    "{net}",')
        print("]\n")


main()
