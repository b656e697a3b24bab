from .api import Hidden as Hidden
from .api import LayerKernels as LayerKernels
from .api import Prediction as Prediction
from .api import Run as Run
from .api import Sweep as Sweep
from .api import compare as compare
from .api import load as load
from .api import plot as plot
from .api import sweep as sweep
from .api import train as train
from .errors import ConfigError as ConfigError
from .errors import UserError as UserError

__version__: str
