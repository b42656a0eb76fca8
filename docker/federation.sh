#!/usr/bin/env bash
# Makes what a federation needs, in one folder: a certificate authority, the SuperLink's certificate, a key for every
# node, and the folders that the containers mount. What is there already is never touched, so it can be called again:
# to add nodes, or to renew what you have moved away.
#   docker/federation.sh [--nodes 3] [--host superlink.example.org]... [FOLDER]        FOLDER: federation
# --host adds names or addresses under which nodes reach the SuperLink, besides localhost and superlink.
set -euo pipefail
umask 077

nodes=3 folder=federation names=DNS:localhost,DNS:superlink,IP:127.0.0.1
while [ $# -gt 0 ]; do
  case $1 in
    --nodes) nodes=$2; shift 2 ;;
    --host) [[ $2 =~ ^[0-9.]+$|: ]] && names+=,IP:$2 || names+=,DNS:$2; shift 2 ;;
    -*) sed -n '2,7s/^# //p' "$0"; exit 2 ;;
    *) folder=$1; shift ;;
  esac
done
for tool in openssl ssh-keygen; do
  command -v $tool >/dev/null || { echo "$tool is missing: install openssl and openssh-client" >&2; exit 1; }
done
here=$(cd "$(dirname "$0")" && pwd)
env=${ENV_FILE:-$here/.env} # Compose reads it beside its file
mkdir -p "$folder"
cd "$folder"
mkdir -p ca superlink public outputs flower

if [ ! -e ca/ca.key ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 3650 -subj '/CN=fedrac federation' \
    -addext keyUsage=critical,keyCertSign -keyout ca/ca.key -out ca/ca.crt 2>/dev/null
  echo "made a certificate authority: keep $PWD/ca/ca.key to yourself"
fi
if [ ! -e superlink/server.crt ]; then
  [ -e superlink/server.key ] || openssl ecparam -genkey -name secp384r1 -noout -out superlink/server.key
  openssl req -new -key superlink/server.key -subj '/CN=superlink' |
    openssl x509 -req -days "${DAYS:-365}" -CA ca/ca.crt -CAkey ca/ca.key -CAcreateserial -out superlink/server.crt \
      -extfile <(echo "subjectAltName=$names") 2>/dev/null
  echo "made the SuperLink's certificate for $names, $(openssl x509 -enddate -noout -in superlink/server.crt)"
fi
openssl x509 -checkend 2592000 -noout -in superlink/server.crt >/dev/null ||
  echo "the SuperLink's certificate has expired, or will within 30 days: move superlink/server.crt away, then call me again"
cp ca/ca.crt superlink/ca.crt
if [ ! -e superlink/control.htpasswd ]; then
  [ -e flower/control.token ] || openssl rand -hex 24 >flower/control.token
  openssl passwd -apr1 -stdin <flower/control.token | sed 's/^/operator:/' >superlink/control.htpasswd
  echo "made a token for those who start runs: $PWD/flower"
fi
[ -e superlink/superexec.secret ] || openssl rand -hex 32 >superlink/superexec.secret

for ((node = 0; node < nodes; node++)); do
  mkdir -p "nodes/$node" "data/node-$node" "state/node-$node"
  if [ ! -e "nodes/$node/key" ]; then
    ssh-keygen -q -t ecdsa -b 384 -N '' -C "node-$node" -f "nodes/$node/key"
    echo "made a key for node $node"
  fi
  cp ca/ca.crt "nodes/$node/ca.crt"
  [ -e "nodes/$node/policy.yaml" ] || cp "$here/policy.yaml" "nodes/$node/"
  cp "nodes/$node/key.pub" "public/node-$node.pub"
done
mkdir -p state/superlink state/serverapp data/server

[ -e flower/config.toml ] || cat >flower/config.toml <<END
[superlink]
default = "docker"

[superlink.docker]
address = "operator:$(cat flower/control.token)@127.0.0.1:${PORT:-9092}"
root-certificates = "$PWD/ca/ca.crt"
END
grep -q operator: flower/config.toml ||
  echo "flower/config.toml has no token: its address is operator:TOKEN@HOST:PORT, with the TOKEN of flower/control.token"
# Containers run as whoever owns the folder, never as root.
user=$(id -u):$(id -g)
if [ "$(id -u)" = 0 ]; then
  user=1000:1000
  chown -R $user . && chown -R 0:0 ca flower && chmod 711 . && chmod 755 ca && chmod 644 ca/ca.crt
fi
[ -e "$env" ] || printf 'FEDERATION=%s\nFEDRAC_USER=%s\n' "$PWD" "$user" >"$env"
echo "the federation is in $PWD: export FLWR_HOME=$PWD/flower"
