def fragment(c):
    return ""


def render(c):
    return ""
