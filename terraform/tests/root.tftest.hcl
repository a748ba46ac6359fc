# The thin root: the proof of concept's commands, and what stands for them.

mock_provider "aws" {
  source = "./modules/s3nsync/tests/mocks"
}

variables {
  bucket    = "media"
  accountid = "111122223333"
  cpcode    = "123456"
  region    = "eu-central-1"
  secret    = { NS_HOSTNAME = "example-nsu.akamaihd.net", NS_USER = "upload", NS_KEY = "key" }
  natgwrtid = "rtb-0a1b2c3d"
}

run "the_proof_of_concepts_variables_are_enough" {
  command = plan

  assert {
    condition     = jsondecode(output.routes_json) == [{ bucket = "media", cpcode = "123456" }]
    error_message = "One route stands for bucket and cpcode."
  }
  assert {
    condition     = output.function_name == "s3nsync-intake" && output.cluster_name == "s3nsync"
    error_message = "Names begin with the deployment's."
  }
}

run "routes_take_their_place" {
  command = plan
  variables {
    bucket = null
    cpcode = null
    routes = [
      { bucket = "media", cpcode = "123456", prefix = "video/", strip_prefix = "video/", directory = "v", include = ["*.mp4"] },
      { bucket = "media", cpcode = 654321, prefix = "images/", deletes = "ignore", settle_s = 5 },
      { bucket = "site", cpcode = "654321", directory = "site", deletes = "trash", trash = "bin" },
    ]
  }

  assert {
    condition = jsondecode(output.routes_json) == [
      { bucket = "media", cpcode = "123456", prefix = "video/", strip_prefix = "video/", directory = "v", include = ["*.mp4"] },
      { bucket = "media", cpcode = "654321", prefix = "images/", deletes = "ignore", settle_s = 5 },
      { bucket = "site", cpcode = "654321", directory = "site", deletes = "trash", trash = "bin" },
    ]
    error_message = "Routes pass as they were written, with nothing added."
  }
}

run "a_bucket_and_routes_are_refused" {
  command = plan
  variables {
    routes = [{ bucket = "media", cpcode = "123456" }]
  }
  expect_failures = [var.bucket]
}

run "neither_bucket_nor_routes_is_refused" {
  command = plan
  variables {
    bucket = null
    cpcode = null
  }
  expect_failures = [var.bucket]
}

run "a_bucket_without_cpcode_is_refused" {
  command = plan
  variables {
    cpcode = null
  }
  expect_failures = [var.cpcode]
}

run "a_misspelt_key_of_a_route_is_refused" {
  command = plan
  variables {
    bucket = null
    cpcode = null
    routes = [{ bucket = "media", cpcode = "123456", delete = "ignore" }]
  }
  expect_failures = [var.routes]
}

run "a_misspelt_key_of_operations_is_refused" {
  command = plan
  variables {
    operations = { log_retention = 7 }
  }
  expect_failures = [var.operations]
}

run "tags_that_aws_keeps_are_refused" {
  command = plan
  variables {
    tags = { "aws:team" = "media" }
  }
  expect_failures = [var.tags]
}

run "tags_with_signs_that_aws_does_not_take_are_refused" {
  command = plan
  variables {
    tags = { team = "media; video" }
  }
  expect_failures = [var.tags]
}

run "tags_as_people_write_them_are_taken" {
  command = plan
  variables {
    tags = { "Cost Center" = "4711/media", "owner" = "büro@example.com", "empty" = "" }
  }
}

run "empty_variables_are_refused" {
  command = plan
  variables {
    accountid = ""
    region    = ""
  }
  expect_failures = [var.accountid, var.region]
}

run "an_account_that_is_none_is_refused" {
  command = plan
  variables {
    accountid = "1111-2222-3333"
  }
  expect_failures = [var.accountid]
}

run "a_region_that_is_none_is_refused" {
  command = plan
  variables {
    region = "Frankfurt"
  }
  expect_failures = [var.region]
}
