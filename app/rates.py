"""How long a page's requests will take here: the estimates of mechdiff.study.timings, remembered for a while."""

import streamlit as st

from mechdiff import questions
from mechdiff.questions import Question
from mechdiff.study import timings


@st.cache_data(ttl=30, max_entries=64, show_spinner=False)
def remaining(name: str, _run: Question) -> int:
    """The number of cells still to compute. name: identifies the request."""
    task = questions.task(_run)
    return task.total - task.done


def estimate(*runs: Question) -> str:
    """How long requests will take, in words."""
    return timings.estimate({run: remaining(repr(run), run) for run in runs})
