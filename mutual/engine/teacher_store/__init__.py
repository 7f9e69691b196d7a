"""Teacher store: what frozen peers say of counted views of the training images, computed once."""

from mutual.engine.teacher_store.opening import open_stores
from mutual.engine.teacher_store.store import TeacherStore

__all__ = [
    "TeacherStore",
    "open_stores",
]
