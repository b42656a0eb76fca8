# The federated comparison; without MNIST it is made on the 5,000 digits that come with the package. At Dirichlet 0.1 a few
# of the 100 clients get no examples, and are left out.
DATA=${MNIST:+"data=idx data.path=$MNIST data.classes=[5,6,7,8,9] local.batch_size=32"}
GRID=local.lr=0.0003,0.001,0.003,0.01,0.03,0.1
for epochs in 1 5; do
  [ $epochs = 1 ] && rounds=100 || rounds=40 # each of five epochs is five times the work
  for division in iid 0.5 0.1; do
    case $division in
      iid) DIVIDE=partition=iid ;;
      *) DIVIDE="partition.alpha=$division partition.min_size=0" ;;
    esac
    RUN="experiment=federated $DATA $DIVIDE local.epochs=$epochs rounds=$rounds"
    # Every method's learning rate is chosen on validation data, with seeds that are not used again.
    TRIAL="$RUN evaluate.validation=0.2 evaluate.every=$rounds seed=100,101,102 $GRID"
    TO="$RUNS/federated/grid/$epochs/$division"
    fedrac -m $TRIAL method=fed_rac_lora,asymm_lora method.side=left,right sweep.dir="$TO/one"
    fedrac -m $TRIAL method=fedavg,fedavg_lora,fed_cola,flora,fedex_lora sweep.dir="$TO/other"
    # One line for every learning rate that was chosen: methods, side, rate.
    python -m experiments.choose "$TO" | while read -r name chosen; do
      fedrac -m $RUN $chosen 'seed=range(5)' sweep.dir="$RUNS/federated/$epochs/$division/$name"
    done
  done
done
