"""The only writer of files: run folders with rows, pictures, traces, figures and provenance."""

from plugip.record.files import RecordError as RecordError
from plugip.record.folder import Record as Record
from plugip.record.rows import Parts as Parts
from plugip.record.rows import Row as Row
from plugip.record.settings import run_hash as run_hash
from plugip.record.settings import settings_hash as settings_hash
