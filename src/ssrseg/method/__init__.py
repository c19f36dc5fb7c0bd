"""The paper as tensor maths: no files, no configuration, no state.

``cmpa`` holds Eq. 1-6, ``sgc`` Eq. 7, 8, 10 and 11, ``affinity`` Eq. 9, ``objective`` Eq. 12, and
``cam`` the GradCAM that all of them start from. ``peers`` holds what belongs to other papers.
"""
