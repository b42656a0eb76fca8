"""The ``fedrac`` command: one run in this process, a sweep, or a sub-command."""

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

import fedrac
from fedrac.cli import commands
from fedrac.experiment import compose
from fedrac.monitoring.errors import told
from fedrac.monitoring.progress import show_log


def main() -> None:
    """``fedrac [KEY=VALUE ...]``; with ``-m`` a sweep over all combinations, with ``--help`` every key; ``--version``.

    A first word that is no option and has no ``=`` is a sub-command: see `fedrac.cli.commands`.
    """
    show_log()
    sys.path.insert(0, str(Path.cwd()))  # models and data of one's own, by import path
    try:
        if len(sys.argv) > 1 and sys.argv[1][:1] not in ("-", "+", "~") and "=" not in sys.argv[1]:
            sys.exit(commands.run(sys.argv[1], sys.argv[2:]))
        elif {"-m", "--multirun"} & set(sys.argv[1:]):
            from fedrac.cli import sweep

            sys.exit(sweep.main([argument for argument in sys.argv[1:] if argument not in ("-m", "--multirun")]))
        elif sys.argv[1:] == ["--version"]:
            print(f"fedrac {fedrac.__version__}")
        elif any(argument.startswith("-") for argument in sys.argv[1:]):
            sys.argv[1:] = compose.extending(sys.argv[1:])
            _hydra()
        else:
            fedrac.run(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("stopped; finished rounds are on disk, go on with resume=DIR")
    except Exception as error:
        sys.exit(f"error: {told(error)}")


def _run(settings: DictConfig, output_dir: Path) -> None:
    from fedrac.experiment.run import in_process, run

    run(settings, in_process(settings), output_dir.absolute())


def _hydra() -> None:
    """``--help``, ``--cfg job`` and the rest of Hydra's own options."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    OmegaConf.register_new_resolver("fedrac.commands", commands.listing, replace=True)  # for the help text

    @hydra.main(config_path=str(compose.config_dir()), config_name="config", version_base="1.3")
    def application(settings: DictConfig) -> None:
        try:
            _run(compose.of_one_run(settings), Path(HydraConfig.get().runtime.output_dir))
        except Exception as error:  # Hydra would show its own frames
            sys.exit(f"error: {told(error)}")

    application()
