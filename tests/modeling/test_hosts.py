"""Every property of `common_host_tester` on every host."""

import pytest
from common_host_tester import CommonHostTester
from tiny_hosts import HOSTS


class TestHosts(CommonHostTester):
    @pytest.fixture(params=HOSTS)
    def host(self, request):
        return HOSTS[request.param]
