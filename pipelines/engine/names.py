"""What a stage's group and its changelogs are called in Kafka."""


def app_id(stage: str) -> str:
    """Faust app id, Kafka group and prefix of transactional ids of a stage."""
    return f"chat4all-{stage}"


def changelog_topic(app_id: str, table: str) -> str:
    """As Faust names it."""
    return f"{app_id}-{table}-changelog"
