# Plans that show every policy as it is written, for tests/terraform/policies.py to read. No AWS is asked: the provider
# is real, because it puts the documents together, and all that it would ask for is told here. Not part of `terraform
# test` as it is: it asserts nothing by itself.

provider "aws" {
  region                      = "eu-central-1"
  access_key                  = "none"
  secret_key                  = "none"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true
}

override_data {
  target = data.aws_caller_identity.this
  values = { account_id = "123456789012" }
}

override_data {
  target = data.aws_s3_bucket.source
  values = { arn = "arn:aws:s3:::media", region = "eu-central-1" }
}

override_data {
  target = data.aws_subnet.given
  values = { vpc_id = "vpc-0a1b2c3d" }
}

override_data {
  target = data.aws_availability_zones.this
  values = { names = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
}

# What AWS makes up by itself.

override_resource {
  target          = aws_kms_key.this
  override_during = plan
  values          = { arn = "arn:aws:kms:eu-central-1:123456789012:key/own" }
}

override_resource {
  target          = aws_secretsmanager_secret.this
  override_during = plan
  values          = { arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:s3nsync/netstorage-AbCdEf" }
}

override_resource {
  target          = aws_lambda_function.intake
  override_during = plan
  values          = { arn = "arn:aws:lambda:eu-central-1:123456789012:function:s3nsync-intake" }
}

override_resource {
  target          = aws_cloudwatch_event_rule.drain
  override_during = plan
  values          = { arn = "arn:aws:events:eu-central-1:123456789012:rule/s3nsync-drain-failures" }
}

override_resource {
  target          = aws_cloudwatch_event_rule.source
  override_during = plan
  values          = { arn = "arn:aws:events:eu-central-1:123456789012:rule/s3nsync-s3-a4e1d1f1" }
}

variables {
  routes     = [{ bucket = "media", cpcode = "123456" }]
  secret     = { NS_HOSTNAME = "example-nsu.akamaihd.net", NS_USER = "upload", NS_KEY = "key" }
  subnet_ids = ["subnet-00000001"] # the network has no policy; this way it asks for nothing
}

run "defaults" {
  command = plan
}

run "eventbridge" {
  command = plan

  variables {
    event_path = "eventbridge"
    operations = { verify_every_hours = 24 }
  }
}

# Everything that has a policy elsewhere is somebody else's.
run "given" {
  command = plan

  variables {
    routes = [
      { bucket = "media", cpcode = "123456", prefix = "site/" },
      { bucket = "media", cpcode = "123456", prefix = "film/", account = "film" },
    ]
    secret = null
    secret_arns = {
      default = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:netstorage-AbCdEf"
      film    = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:film-GhIjKl"
    }
    kms_key_arn         = "arn:aws:kms:eu-central-1:123456789012:key/given"
    bucket_kms_key_arns = ["arn:aws:kms:eu-central-1:123456789012:key/bucket"]
    image               = "210987654321.dkr.ecr.eu-central-1.amazonaws.com/team/s3nsync:1.0"
    operations          = { verify_every_hours = 24 }
  }
}
