"""What every user does works."""

from tests.http.main_road import go_the_main_road
from tests.support import Service


def test_a_user_goes_from_free_uses_to_paid_credits(service: Service) -> None:
    go_the_main_road(service)
