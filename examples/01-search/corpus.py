"""The documents: docstrings of the public functions and classes of the standard library."""

import importlib
import inspect
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

MODULES = """
    abc argparse array ast asyncio base64 binascii bisect builtins bz2 calendar cmath codecs
    collections collections.abc colorsys concurrent.futures configparser contextlib contextvars
    copy csv ctypes dataclasses datetime decimal difflib dis email email.message email.utils enum
    filecmp fileinput fnmatch fractions ftplib functools gc getpass gettext glob graphlib gzip
    hashlib heapq hmac html html.parser http.client http.cookies http.server imaplib importlib
    inspect io ipaddress itertools json keyword linecache locale logging logging.handlers lzma
    mailbox math mimetypes mmap multiprocessing netrc numbers operator os os.path pathlib pickle
    pkgutil platform plistlib poplib pprint profile pstats queue quopri random re reprlib sched
    secrets select selectors shelve shlex shutil signal smtplib socket socketserver sqlite3 ssl
    stat statistics string struct subprocess symtable sys sysconfig tarfile tempfile textwrap
    threading time timeit token tokenize tomllib traceback types typing unicodedata unittest
    urllib.error urllib.parse urllib.request urllib.robotparser uuid venv warnings wave weakref
    webbrowser xml.dom.minidom xml.etree.ElementTree xmlrpc.client zipapp zipfile zipimport zlib
    zoneinfo
""".split()  # noqa: SIM905  one name per line would be two screens

TEXT_MAX = 600
"""Characters of a docstring that are kept; what follows is detail."""


SUMMARY_MAX = 160
SIGNATURE = re.compile(r"(\w+ = )?[\w.]+\(")


class Document(NamedTuple):
    name: str
    summary: str
    text: str


def documents() -> list[Document]:
    """Every documented public function and class, each under the first name it goes by."""
    known: set[int] = set()
    found = []
    for name, thing in public_things():
        text = inspect.getdoc(thing)
        if id(thing) not in known and text and not text.startswith("str(object="):
            known.add(id(thing))
            found.append(Document(name, summary(text), " ".join(text.split())[:TEXT_MAX]))
    return found


def public_things() -> Iterator[tuple[str, object]]:
    for module_name in MODULES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                module = importlib.import_module(module_name)
            except ImportError:  # not built on this system, or not in this Python
                continue
            for name in getattr(module, "__all__", None) or dir(module):
                thing = getattr(module, name, None)
                if not name.startswith("_") and is_own(thing, module_name):
                    yield f"{module_name}.{name}", thing


def is_own(thing: object, module_name: str) -> bool:
    """Whether `thing` is a function or a class that does not come from another package."""
    if not (inspect.isroutine(thing) or inspect.isclass(thing)):
        return False
    home = getattr(thing, "__module__", None) or module_name
    return home.lstrip("_").partition(".")[0] in {
        module_name.partition(".")[0],
        "posixpath",
        "posix",
    }


def summary(text: str) -> str:
    """The first sentence, past the signature that functions written in C begin with."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    if len(paragraphs) > 1 and SIGNATURE.match(paragraphs[0]):
        paragraphs.pop(0)
    first = next((part for part in paragraphs if len(part.split()) > 3), paragraphs[0])
    return re.split(r"(?<=[.!?])\s", first)[0][:SUMMARY_MAX]
