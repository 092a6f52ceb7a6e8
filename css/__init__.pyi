from css.api import Dataset as Dataset
from css.api import Model as Model
from css.api import load as load
from css.api import train as train

__version__: str
