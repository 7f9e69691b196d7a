"""Options of the tests."""


def pytest_addoption(parser):
    parser.addoption("--faults-long", action="store_true", help="the long form of the attacks")
