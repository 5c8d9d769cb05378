"""Students: networks that learn to answer as a teacher did, and their files."""

from __future__ import annotations

from tiekd_cache.students.architectures import STUDENTS, Architecture
from tiekd_cache.students.student import Student, build_student
from tiekd_cache.students.student_io import export_student, load_student, save_student

__all__ = ["STUDENTS", "Architecture", "Student", "build_student", "export_student", "load_student", "save_student"]
