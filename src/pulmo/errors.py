"""Every error that Pulmo raises on purpose.

    PulmoError
    ├── ConfigError      the configuration or a setting is wrong            exit 2
    ├── DataError        images, manifests or data sets are wrong           exit 1
    ├── ModelError       a bundle, a network or a checkpoint is wrong       exit 1
    │   └── UntrainableError no model comes out of these settings here      exit 1
    ├── RegistryError    the registry cannot do what was asked              exit 1
    │   ├── NotFoundError    no such model, version or alias                exit 1
    │   └── ConflictError    somebody else moved the alias first            exit 1
    ├── RefusedError     a gate or a check said no                          exit 3
    └── ServingError     a request cannot be answered                       exit 1
        ├── ForgedError       its signature proves nothing                  exit 1
        ├── TooLargeError     its body or the number of pictures            exit 1
        ├── MediaTypeError    its body is of a kind that is not read        exit 1
        ├── InvalidError      its body or parameters say nothing useful     exit 1
        ├── TooSlowError      its body did not arrive in time               exit 1
        ├── UnauthorizedError whoever asks shows no key that is known       exit 1
        ├── ForbiddenError    whoever asks may not ask this                 exit 1
        ├── TooManyError      whoever asks asks too often                   exit 1
        └── BusyError         the server has too much to do                 exit 1

A message says what was wrong, where, and what to do next. `pulmo.main` maps classes to exit codes
and serving maps them to HTTP statuses; nothing else does.
"""


class PulmoError(Exception):
    """The root: anything below it is shown to the user as one sentence, without a traceback."""


class ConfigError(PulmoError):
    """The configuration or a setting is wrong."""


class DataError(PulmoError):
    """An image, a manifest or a data set is missing, damaged or unsuitable."""


class ModelError(PulmoError):
    """A bundle, a network or a checkpoint is missing, damaged or unsuitable."""


class UntrainableError(ModelError):
    """No model comes out of these settings on this machine; of others one may."""


class RegistryError(PulmoError):
    """The registry cannot do what was asked."""


class NotFoundError(RegistryError):
    """The registry has no such model, version or alias."""


class ConflictError(RegistryError):
    """An alias or a version changed between reading and writing it."""


class RefusedError(PulmoError):
    """A gate, a staged test or a check said no; nothing is broken."""


class ServingError(PulmoError):
    """A request cannot be answered."""


class ForgedError(ServingError):
    """A webhook's signature, time or token does not prove where it comes from."""


class TooLargeError(ServingError):
    """A request's body is larger, or holds more pictures, than is read."""


class MediaTypeError(ServingError):
    """A request's body is of a kind, or in an encoding, that is not read."""


class InvalidError(ServingError):
    """A request is well-formed and asks for nothing that can be answered."""


class TooSlowError(ServingError):
    """A request's body did not arrive in time."""


class BusyError(ServingError):
    """The server has too much to do, or no model yet; asking again later may help."""


class UnauthorizedError(ServingError):
    """Whoever asks shows no key, or none that is known."""


class ForbiddenError(ServingError):
    """Whoever asks may not ask this."""


class TooManyError(ServingError):
    """Whoever asks asks too often; `seconds` from now on they may again."""

    def __init__(self, message: str, seconds: int = 1) -> None:
        super().__init__(message)
        self.seconds = seconds
