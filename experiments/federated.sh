# The federated comparison; without MNIST it is made on the 5,000 digits that come with the package. At Dirichlet 0.1 a few
# of the 100 clients get no examples, and are left out.
DATA=${MNIST:+"data=idx data.path=$MNIST data.classes=[5,6,7,8,9] local.batch_size=32"}
GRID=local.lr=0.0003,0.001,0.003,0.01,0.03,0.1
for epochs in 1 5; do
  [ $epochs = 1 ] && rounds=100 || rounds=40 # each of five epochs is five times the work
  # Every method's learning rate is chosen on validation data, with a seed that is not used again.
  TRIAL="experiment=federated $DATA evaluate.validation=0.2 local.epochs=$epochs rounds=$rounds $GRID"
  fedrac -m $TRIAL seed=100 method=fed_rac_lora,asymm_lora method.side=left,right sweep.dir="$RUNS/federated/grid/$epochs/one"
  fedrac -m $TRIAL seed=100 method=fedavg,fedavg_lora,fed_cola,flora,fedex_lora sweep.dir="$RUNS/federated/grid/$epochs/other"
  # One line for every learning rate that was chosen: methods, side, rate.
  python -m experiments.choose "$RUNS/federated/grid/$epochs" | while read -r name chosen; do
    RUN="experiment=federated $DATA local.epochs=$epochs rounds=$rounds $chosen seed=range(5)"
    fedrac -m $RUN partition=iid sweep.dir="$RUNS/federated/$epochs/iid/$name"
    fedrac -m $RUN partition.min_size=0 partition.alpha=0.1,0.5 sweep.dir="$RUNS/federated/$epochs/dirichlet/$name"
  done
done
