# AWS's own limits, told at plan.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  secret             = { NS_HOSTNAME = "example-nsu.akamaihd.net", NS_USER = "upload", NS_KEY = "key" }
  nat_route_table_id = "rtb-0a1b2c3d"
}

run "as_many_notifications_as_a_bucket_takes" {
  command = plan
  variables {
    routes         = [for number in range(50) : { bucket = "media", cpcode = "1", prefix = "${number}/" }]
    event_suffixes = [".mp4", ".m3u8"]
  }

  assert {
    condition     = length(aws_s3_bucket_notification.source["media"].lambda_function) == 100
    error_message = "A hundred."
  }
}

run "more_notifications_than_a_bucket_takes" {
  command = plan
  variables {
    routes         = [for number in range(51) : { bucket = "media", cpcode = "1", prefix = "${number}/" }]
    event_suffixes = [".mp4", ".m3u8"]
  }
  expect_failures = [aws_s3_bucket_notification.source["media"]]
}

run "by_eventbridge_there_is_no_such_limit" {
  command = plan
  variables {
    routes     = [for number in range(51) : { bucket = "media", cpcode = "1", prefix = "${number}/" }]
    event_path = "eventbridge"
  }

  assert {
    condition     = aws_s3_bucket_notification.source["media"].eventbridge
    error_message = "One switch for all."
  }
}

run "more_prefixes_and_suffixes_than_a_rule_takes" {
  command = plan
  variables {
    routes         = [for number in range(51) : { bucket = "media", cpcode = "1", prefix = "${number}/" }]
    event_suffixes = [".mp4", ".m3u8"]
    event_path     = "eventbridge"
  }
  expect_failures = [aws_cloudwatch_event_rule.source["media"]]
}
