#!/bin/sh
# Registers the public keys in /public with the SuperLink; keys that it knows already stay as they are.
set -eu
export FLWR_HOME=/tmp/flwr
mkdir -p $FLWR_HOME
printf '[superlink]\ndefault = "own"\n[superlink.own]\naddress = "superlink:9092"\nroot-certificates = "/tls/ca.crt"\n' \
  >$FLWR_HOME/config.toml
for key in /public/*.pub; do
  if said=$(flwr supernode register "$key" own 2>&1); then
    echo "registered ${key#/public/}"
  else
    case $said in
      *already*) echo "${key#/public/} is registered" ;;
      *) echo "${key#/public/}: $said" >&2; exit 1 ;;
    esac
  fi
done
