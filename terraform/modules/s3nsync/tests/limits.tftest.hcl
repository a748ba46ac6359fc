# AWS's own limits, told at plan.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  secret             = { NS_HOSTNAME = "example-nsu.akamaihd.net", NS_USER = "upload", NS_KEY = "key" }
  nat_route_table_id = "rtb-0a1b2c3d"
}

run "routes_of_ideographs_beyond_lambdas_environment" {
  command = plan
  variables {
    # 1,600 letters, and twice as many bytes.
    routes = [for number in range(16) : { bucket = "media", cpcode = "1", prefix = "${number}/日本語の動画と写真を入れるための名前が長いフォルダ/日本語の動画と写真を入れるための名前が長いフォルダ/" }]
  }
  expect_failures = [var.routes]
}

run "more_buckets_than_a_policy_holds" {
  command = plan
  variables {
    routes = [for number in range(40) : { bucket = "a-bucket-of-twenty-${number}", cpcode = "1" }]
  }
  expect_failures = [terraform_data.routes_are_sound]
}

run "as_many_buckets_as_a_policy_holds" {
  command = plan
  variables {
    routes = [for number in range(33) : { bucket = "a-bucket-of-twenty-${number}", cpcode = "1", directory = "${number}" }]
  }

  assert {
    condition     = length(data.aws_s3_bucket.source) == 33
    error_message = "Each is looked for."
  }
}

run "a_prefix_that_iam_cannot_spell" {
  command = plan
  variables {
    routes = [
      { bucket = "media", cpcode = "1", prefix = "日本語/büro a/" },
      { bucket = "media", cpcode = "1", prefix = "$${aws:username}/" },
    ]
  }

  assert {
    condition     = local.routes_keys == tolist(["arn:aws:s3:::media/*/büro a/*", "arn:aws:s3:::media/*{aws:username}/*"])
    error_message = "A wildcard stands for what is beyond Latin-1, and for what begins a variable."
  }
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
